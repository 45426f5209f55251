CREATE TABLE accounts(id INTEGER PRIMARY KEY, holder TEXT, branch TEXT, balance REAL);
CREATE TABLE moves(id INTEGER PRIMARY KEY, account_id INTEGER, day TEXT, amount REAL, label TEXT);
INSERT INTO accounts VALUES
  (1,'Vera','Metz',1500),
  (2,'Will','Metz',-40),
  (3,'Xena','Toul',9200.5),
  (4,'Yann','Nancy',0),
  (5,'Zora','Toul',310);
INSERT INTO moves VALUES
  (1,1,'2024-09-01',2000,'salary'),
  (2,1,'2024-09-03',-500,'rent'),
  (3,2,'2024-09-03',-40,'phone'),
  (4,3,'2024-09-10',9000,'sale'),
  (5,5,'2024-10-01',-20,'phone'),
  (6,3,'2024-10-02',-75.5,'food');
