CREATE TABLE pupils(id INTEGER PRIMARY KEY, name TEXT, class TEXT);
CREATE TABLE marks(pupil_id INTEGER, subject TEXT, mark INTEGER, day TEXT);
INSERT INTO pupils VALUES
  (1,'Ada','6A'),
  (2,'Bea','6A'),
  (3,'Coi','6B'),
  (4,'Dim','6B'),
  (5,'Eva','6C');
INSERT INTO marks VALUES
  (1,'maths',17,'2024-01-12'),
  (1,'history',12,'2024-01-15'),
  (2,'maths',9,'2024-01-12'),
  (3,'maths',14,'2024-01-13'),
  (3,'art',19,'2024-02-01'),
  (4,'history',8,'2024-01-15');
